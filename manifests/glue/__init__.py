"""Tasks on sentences, in the layout of GLUE, into what fairseq's `sentence_prediction` reads."""
