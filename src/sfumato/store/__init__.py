"""What the server writes down and a later improvement reads: feedback, and the responses it is about."""

from importlib.util import find_spec

if find_spec("sqlalchemy") is None:
    raise ValueError("feedback needs SQLAlchemy, which is not installed: pip install 'sfumato[serve]'")
