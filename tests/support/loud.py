"""The example application, which logs all that it can: `python -m tests.support.loud`."""

import logging

from uvicorn.config import LOGGING_CONFIG

from example_app.__main__ import main

if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    for logger in LOGGING_CONFIG["loggers"].values():
        logger["level"] = "DEBUG"
    main()
