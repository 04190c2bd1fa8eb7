"""Set-up of a Prefect server: blocks, limits, a work pool, deployments and automations."""
