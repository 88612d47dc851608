//! `completions` and `man`: the command line described for shells and for people. `scripts/install` and
//! `scripts/release` install both.

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, roman},
};

use super::{
    AFTER_HELP, Cli,
    guide::{Block, GUIDE, blocks, plain},
    output::{ExitStatus, print, print_error},
};

const NAME: &str = "kms-connector";

pub(super) fn completions(shell: Shell) -> ExitStatus {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    print(&String::from_utf8_lossy(&script), ExitStatus::Success)
}

/// The manual sections that have a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Section {
    // One page, not one per command: an operator searches for a word. Only doc comments are help texts.
    /// The command line: all commands and options.
    #[value(name = "1")]
    Commands,
    /// Troubleshooting: reasons, outcomes, states, codes and messages, and what to do.
    #[value(name = "7")]
    Guide,
}

pub(super) fn page(section: Section) -> ExitStatus {
    let page = match section {
        Section::Commands => render(),
        Section::Guide => render_guide(),
    };
    match page {
        Ok(page) => print(&String::from_utf8_lossy(&page), ExitStatus::Success),
        Err(error) => {
            print_error(format_args!("cannot make the manual page: {error}"));
            ExitStatus::Failure
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

/// The guide as a page of section 7.
fn render_guide() -> std::io::Result<Vec<u8>> {
    let mut page = Roff::new();
    page.control("TH", [NAME, "7"]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{NAME} - what is wrong, what it means, what to do"))]);
    for block in blocks(GUIDE) {
        match block {
            Block::Heading { level: 1, .. } => {
                page.control("SH", ["DESCRIPTION"]);
            }
            Block::Heading { level, text } => {
                let name = if level == 2 { "SH" } else { "SS" };
                page.control(name, [text.replace('`', "").as_str()]);
            }
            Block::Paragraph(text) => {
                page.control("PP", []);
                page.text(inlines(&text));
            }
            Block::Item { mark, text } => {
                page.control("IP", [mark.as_str(), "4"]);
                page.text(inlines(&text));
            }
            Block::Code(lines) => {
                page.control("PP", []);
                page.control("nf", []);
                page.control("RS", ["4"]);
                page.text([roman(lines.join("\n"))]);
                page.control("RE", []);
                page.control("fi", []);
            }
            Block::Row { cells, .. } => {
                page.control("TP", []);
                page.text(inlines(&cells[0]));
                for (number, cell) in cells[1..].iter().enumerate() {
                    if number > 0 {
                        page.control("IP", []);
                    }
                    page.text(inlines(cell));
                }
            }
        }
    }
    let mut bytes = Vec::new();
    page.to_writer(&mut bytes)?;
    Ok(bytes)
}

/// Makes the texts in backticks bold.
fn inlines(text: &str) -> Vec<Inline> {
    let plain = plain(text);
    let parts = plain.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(n, part)| if n % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

/// A section for a command, and one for each of its subcommands.
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
    // Below the heading of the command.
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

    #[test]
    fn the_guides_page_has_its_sections() {
        let page = String::from_utf8(render_guide().unwrap()).unwrap();
        for words in [
            "\n.TH kms-connector 7\n",
            "\n.SS no_funds\n",
            "\n.SH \"Held requests\"\n",
            "\n.TP\n\\fBgateway node not reachable\\fR\n",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        assert!(!page.contains("](") && !page.contains("**") && !page.contains('`'), "{page}");
    }
}
