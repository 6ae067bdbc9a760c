"""From audio to text by CTC, and how many errors that makes."""

#: Audio samples per batch, padding included: 80 seconds.
MAX_TOKENS = 1280000
#: Symbols of text per batch, padding included.
MAX_SYMBOLS = 16384

#: Of a beam search: hypotheses that are kept at each frame; the weight of the base-10 logarithm of
#: a language model's probability, as in fairseq; and what is added for each word of a lexicon.
BEAM, LM_WEIGHT, WORD_SCORE = 100, 2.0, 0.0
