"""Where choosing connections wins over finetuning weights: a map over data, updates and methods."""
