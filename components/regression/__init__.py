"""What a challenger must not forget: tasks with checkable answers, solved by challenger and champion."""
