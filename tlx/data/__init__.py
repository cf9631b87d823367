"""Images: data sets, few-shot splits, ten crops, pixels."""
