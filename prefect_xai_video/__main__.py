"""`python -m prefect_xai_video` is the command `xai-video`."""

from prefect_xai_video.cli import main

if __name__ == "__main__":
    main()
