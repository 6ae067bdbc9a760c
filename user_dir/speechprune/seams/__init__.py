"""Where the plugin enters fairseq's own code, with the reason for each place."""
