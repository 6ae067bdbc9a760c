"""From audio to text by CTC, and how many errors that makes."""

#: Audio samples per batch, padding included: 80 seconds.
MAX_TOKENS = 1280000
#: Symbols of text per batch, padding included.
MAX_SYMBOLS = 16384
