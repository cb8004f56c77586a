"""Reports of a build: JSON, JUnit, Markdown, HTML."""
