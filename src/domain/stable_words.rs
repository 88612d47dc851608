//! Enums whose variants have a stable word each, for the journal, logs and metrics.

/// Declares such an enum, all its variants, and the way from and to the words.
macro_rules! stable_words {
    (
        $(#[$enum_doc:meta])* pub enum $name:ident;
        $($(#[$doc:meta])* $variant:ident = $word:literal,)+
    ) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

pub(super) use stable_words;
