"""From audio to text by CTC, and how many errors that makes."""
