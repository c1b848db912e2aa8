"""All faults. Importing this fills the table."""

from tests.chaos import faults_apps, faults_engine, faults_long, faults_nginx, faults_process, faults_restart
from tests.chaos.scene import FAULTS

__all__ = ["FAULTS", "faults_apps", "faults_engine", "faults_long", "faults_nginx", "faults_process", "faults_restart"]
