"""What runs and masks came to: comparisons, overlaps and figures of them."""
