"""Many videos: manifest, plan, budget, run and report. Nothing here knows Prefect; its flows are in `batches`."""
