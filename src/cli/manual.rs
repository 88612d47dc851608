//! `completions` and `man`: the command line described for shells and for people. `scripts/install`
//! and `scripts/release` put both where they belong.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::{Man, roff::Roff};

use super::{AFTER_HELP, Cli, Exit, complain, print};

const NAME: &str = "kms-connector";

pub(super) fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    print(&String::from_utf8_lossy(&script), Exit::Success)
}

/// One page of all commands: an operator looks for a word, not for a page.
pub(super) fn page() -> Exit {
    match render() {
        Ok(page) => print(&String::from_utf8_lossy(&page), Exit::Success),
        Err(error) => {
            complain(format_args!("cannot make the manual page: {error}"));
            Exit::Failure
        }
    }
}

fn render() -> std::io::Result<Vec<u8>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for subcommand in command.get_subcommands() {
        of_command(NAME, subcommand, &mut page)?;
    }
    let mut more = Roff::new();
    for paragraph in AFTER_HELP.split("\n\n") {
        let (heading, text) = match paragraph.split_once(":\n") {
            Some(parts) => parts,
            None => ("Exit status", paragraph),
        };
        more.control("SH", [heading.to_uppercase().as_str()]);
        more.control("nf", []);
        more.text([clap_mangen::roff::roman(text)]);
        more.control("fi", []);
    }
    more.to_writer(&mut page)?;
    Ok(page)
}

/// A section for a command, and one for each below it.
fn of_command(above: &str, command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let name = format!("{above} {}", command.get_name());
    if command.has_subcommands() {
        return command.get_subcommands().try_for_each(|below| of_command(&name, below, page));
    }
    let mut heading = Roff::new();
    heading.control("SH", [name.as_str()]);
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        heading.text([clap_mangen::roff::roman(about.to_string())]);
    }
    heading.to_writer(page)?;
    let mut options = Vec::new();
    Man::new(command.clone()).render_options_section(&mut options)?;
    // Below the command's own heading.
    let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS", ".SS Options");
    page.extend(options.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_page_has_every_command() {
        let page = String::from_utf8(render().unwrap()).unwrap();
        for words in
            [".TH", "kms-connector supervise", "kms-connector journal rebuild", "EXIT STATUS"]
        {
            assert!(page.contains(words), "{words}: {page}");
        }
    }
}
