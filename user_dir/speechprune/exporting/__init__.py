"""Models out of fairseq, in the files of other libraries, and back."""
