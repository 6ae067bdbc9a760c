"""The sections of a page, one a file: each arranges a part of its contents."""
