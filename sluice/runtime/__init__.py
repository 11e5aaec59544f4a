"""Code that all processes of Sluice share: settings, logs, the Celery application, metrics, health."""
