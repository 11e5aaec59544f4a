"""What every process of Sluice needs: settings, logs, the Celery application, metrics, health."""
