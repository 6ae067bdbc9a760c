"""Corpora: folders of audio and text into fairseq manifests."""
