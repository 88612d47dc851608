//! The attribute of tests that start servers; `world` names it `#[world::test]`.

use proc_macro::TokenStream;

/// `#[tokio::test]` with two threads: one may block on a process while the servers of the test answer.
#[proc_macro_attribute]
pub fn test(_nothing: TokenStream, function: TokenStream) -> TokenStream {
    let attribute = r#"#[::tokio::test(flavor = "multi_thread", worker_threads = 2)]"#;
    let mut tokens: TokenStream = attribute.parse().expect("an attribute is tokens");
    tokens.extend(function);
    tokens
}
