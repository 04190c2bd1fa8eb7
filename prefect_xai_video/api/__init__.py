"""xAI's video API over HTTP. It knows no Prefect and no store."""
