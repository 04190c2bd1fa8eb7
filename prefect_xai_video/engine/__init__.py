"""The engine: what may be paid, and the receipts that make sure it is paid once. It knows no Prefect."""
