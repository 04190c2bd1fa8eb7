"""xAI's Batch API: bulk work, in batches that are filled by calls or from a file."""
