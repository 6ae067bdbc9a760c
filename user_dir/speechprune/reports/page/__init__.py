"""One page of HTML about runs, masks, layers and slim models: read, arranged and drawn."""
