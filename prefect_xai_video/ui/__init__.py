"""What people see of a video in the Prefect UI: forms, artifacts, previews."""
