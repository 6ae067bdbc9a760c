"""What our tasks are called in fairseq's registry: ``task._name`` of a command line."""

#: A class in each slot of an utterance.
AUDIO_LABELS = "audio_labels"
