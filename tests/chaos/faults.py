"""All faults. Importing this fills the table."""

from tests.chaos import faults_nginx
from tests.chaos.scene import FAULTS

__all__ = ["FAULTS", "faults_nginx"]
