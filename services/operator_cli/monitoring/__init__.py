"""What an operator's monitoring needs: alert rules, a dashboard, traces. Scrapes and stores nothing."""
