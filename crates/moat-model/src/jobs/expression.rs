//! `${{inputs.x}}` and `${{outputs.y}}` in a command.
//!
//! As in Azure, what stands for an expression is put in as it is, without quotes: a person who wants a text with spaces
//! to be one argument writes the quotes into the command. `$[[...]]` is left out whole if an optional input in it was
//! not given.

use std::collections::BTreeMap;

use moat_arm::ApiError;

use super::refuse;

/// Longest command after everything was put in: the kernel takes 128 KiB as one argument.
pub(super) const COMMAND_BYTES_MAX: usize = 100_000;

/// What the names in a job stand for.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) inputs: BTreeMap<String, String>,
    pub(super) outputs: BTreeMap<String, String>,
}

/// The command with everything put in.
pub(super) fn command(text: &str, names: &Names) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("$[[") {
        out.push_str(&fill(before, names)?);
        let Some((optional, after)) = after.split_once("]]") else {
            return Err(invalid("$[[", "it is not closed by ']]'"));
        };
        if expressions(optional)?.iter().all(|e| value(e, names).is_ok()) {
            out.push_str(&fill(optional, names)?);
        }
        rest = after;
    }
    out.push_str(&fill(rest, names)?);
    if out.len() > COMMAND_BYTES_MAX {
        return Err(refuse(
            "CommandTooLong",
            format!("The command has {} bytes with its inputs put in; at most {COMMAND_BYTES_MAX} are run.", out.len()),
        )
        .with_target("properties.command"));
    }
    Ok(out)
}

/// One text in which nothing is optional.
fn fill(text: &str, names: &Names) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let Some((expression, after)) = after.split_once("}}") else {
            return Err(invalid("${{", "it is not closed by '}}'"));
        };
        out.push_str(before);
        out.push_str(value(expression.trim(), names)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The expressions in a text.
fn expressions(text: &str) -> Result<Vec<&str>, ApiError> {
    let parts = text.split("${{").skip(1);
    parts
        .map(|part| match part.split_once("}}") {
            Some((expression, _)) => Ok(expression.trim()),
            None => Err(invalid("${{", "it is not closed by '}}'")),
        })
        .collect()
}

fn value<'a>(expression: &str, names: &'a Names) -> Result<&'a str, ApiError> {
    let (kind, name) = expression.split_once('.').unwrap_or((expression, ""));
    let (found, known) = match kind {
        "inputs" => (names.inputs.get(name), &names.inputs),
        "outputs" => (names.outputs.get(name), &names.outputs),
        "search_space" => {
            return Err(invalid(expression, "sweep jobs are not built; a command job has no search space"));
        }
        _ => return Err(invalid(expression, "only 'inputs.NAME' and 'outputs.NAME' have a meaning in a command")),
    };
    found.map(String::as_str).ok_or_else(|| {
        let known: Vec<&str> = known.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        invalid(expression, &format!("the job's {kind} are: {known}"))
    })
}

fn invalid(expression: &str, why: &str) -> ApiError {
    refuse("InvalidExpression", format!("The command holds '{expression}', which cannot be resolved: {why}."))
        .with_target("properties.command")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    fn check(text: &str) -> String {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let names = Names {
            inputs: map(&[("lr", "0.1"), ("text", "hello world"), ("group.x", "7")]),
            outputs: map(&[("model", "/m")]),
        };
        command(text, &names).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn names_are_put_in() {
        assert_eq!(check("python t.py --lr ${{inputs.lr}} --m ${{ outputs.model }}"), "python t.py --lr 0.1 --m /m");
        assert_eq!(
            check("echo ${{inputs.text}} ${{inputs.group.x}} $HOME ${X} {{y}}"),
            "echo hello world 7 $HOME ${X} {{y}}"
        );
        assert_eq!(check("a $[[--lr ${{inputs.lr}}]] $[[--no ${{inputs.absent}}]] b"), "a --lr 0.1  b");
        // What was put in is not read again.
        assert_eq!(check(""), "");
    }

    #[test]
    fn what_cannot_be_resolved_is_named() {
        let refused: Vec<String> =
            ["${{inputs.absent}}", "${{search_space.x}}", "${{parent.inputs.x}}", "${{inputs.lr", "$[[x", "${{}}"]
                .iter()
                .map(|t| check(t))
                .collect();
        insta::assert_snapshot!(refused.join("\n"), @r"
(InvalidExpression) The command holds 'inputs.absent', which cannot be resolved: the job's inputs are: group.x, lr, text.
(InvalidExpression) The command holds 'search_space.x', which cannot be resolved: sweep jobs are not built; a command job has no search space.
(InvalidExpression) The command holds 'parent.inputs.x', which cannot be resolved: only 'inputs.NAME' and 'outputs.NAME' have a meaning in a command.
(InvalidExpression) The command holds '${{', which cannot be resolved: it is not closed by '}}'.
(InvalidExpression) The command holds '$[[', which cannot be resolved: it is not closed by ']]'.
(InvalidExpression) The command holds '', which cannot be resolved: only 'inputs.NAME' and 'outputs.NAME' have a meaning in a command.
");
    }

    #[test]
    fn a_long_command_is_refused() {
        assert!(check(&"x".repeat(COMMAND_BYTES_MAX + 1)).contains("CommandTooLong"));
    }
}
