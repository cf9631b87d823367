"""Which images: data sets, few-shot splits, ten crops, pixels."""
