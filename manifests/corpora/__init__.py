"""Corpora, one per file: `speechprune prepare` knows each by its name."""

from speechprune.manifests.corpora.base import CORPORA, CorpusMaker, CorpusReader

__all__ = ["CORPORA", "CorpusMaker", "CorpusReader"]
