"""What a run asks of Prefect: blocks, limits, derived keys, labels, events, assets."""
