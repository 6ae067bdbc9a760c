"""The one door into fairseq."""
