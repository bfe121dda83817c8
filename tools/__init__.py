"""What a maintainer runs. Nothing under here is installed, and no package imports it."""
