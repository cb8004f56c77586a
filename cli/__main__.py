"""``python -m scrfdconv.cli``, where the console script is not on the PATH."""

from scrfdconv.cli import app

app()
