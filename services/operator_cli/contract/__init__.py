"""The message schemas as an operator looks at them: listed, shown, exported, compared. Changes none."""
