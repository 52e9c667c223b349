//! The derive macro behind `milena-wire`.
//!
//! `#[derive(Message)]` turns a struct whose fields stand in wire order into a Kafka message: it writes the encoder, the
//! bounded decoder, the minimum encoded size, `Default` with the schema's defaults, and for tests a sampler and its shape.
//! What differs between versions stays beside the field it concerns:
//!
//! ```ignore
//! #[derive(Debug, Clone, PartialEq, Message)]
//! #[message(api_key = 1, versions = "4-18", flexible = "12+")] // top-level messages only
//! struct FetchRequest {
//!     #[field(versions = "12+", nullable = "12+", tag = 0)]
//!     cluster_id: Option<String>,
//!     #[field(versions = "0-14", default = "-1")]
//!     replica_id: i32,
//! }
//! ```
//!
//! A field with `tag` travels as a tagged field in every version that has it. Nested structs carry no `message`
//! attribute: version and flexibility come from the message they are part of.

use proc_macro::TokenStream;
use proc_macro2::{Span, TokenStream as Tokens};
use quote::quote;
use syn::{
    Data, DeriveInput, Error, Expr, Fields, Ident, LitInt, LitStr, Result, Type, parse_macro_input,
};

/// An inclusive range of versions, as Kafka's schemas write it: `3+`, `3-7` or `3`.
#[derive(Clone, Copy)]
struct Versions {
    first: i16,
    last: i16,
}

impl Versions {
    const ALL: Versions = Versions { first: 0, last: i16::MAX };

    fn parse(literal: &LitStr) -> Result<Versions> {
        let text = literal.value();
        let number = |part: &str| {
            part.parse::<i16>()
                .map_err(|_| Error::new(literal.span(), "expected a range such as 3+, 3-7 or 3"))
        };
        if let Some(first) = text.strip_suffix('+') {
            return Ok(Versions { first: number(first)?, last: i16::MAX });
        }
        match text.split_once('-') {
            Some((first, last)) => Ok(Versions { first: number(first)?, last: number(last)? }),
            None => number(&text).map(|only| Versions { first: only, last: only }),
        }
    }

    /// The test `version` must pass, or plain `true` so that the compiler drops it.
    fn test(self) -> Tokens {
        let Versions { first, last } = self;
        match (first, last) {
            (0, i16::MAX) => quote!(true),
            (_, i16::MAX) => quote!(version >= #first),
            (0, _) => quote!(version <= #last),
            _ => quote!((#first..=#last).contains(&version)),
        }
    }
}

struct Field {
    name: Ident,
    kind: Type,
    /// The `T` of an `Option<T>`.
    optional: Option<Type>,
    versions: Versions,
    nullable: Option<Versions>,
    tag: Option<u32>,
    default: Tokens,
}

impl Field {
    fn parse(field: &syn::Field) -> Result<Field> {
        let name = field.ident.clone().expect("named field");
        let mut versions = Versions::ALL;
        let mut nullable = None;
        let mut tag = None;
        let mut default = None;
        for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("field")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("versions") {
                    versions = Versions::parse(&meta.value()?.parse()?)?;
                } else if meta.path.is_ident("nullable") {
                    nullable = Some(Versions::parse(&meta.value()?.parse()?)?);
                } else if meta.path.is_ident("tag") {
                    tag = Some(meta.value()?.parse::<LitInt>()?.base10_parse()?);
                } else if meta.path.is_ident("default") {
                    default = Some(meta.value()?.parse::<LitStr>()?.parse::<Expr>()?);
                } else {
                    return Err(meta.error("expected versions, nullable, tag or default"));
                }
                Ok(())
            })?;
        }
        let optional = option_argument(&field.ty);
        if nullable.is_some() && optional.is_none() {
            return Err(Error::new(name.span(), "only an Option can be nullable"));
        }
        let default = match default {
            Some(expression) => quote!(#expression),
            None => quote!(::core::default::Default::default()),
        };
        Ok(Field { name, kind: field.ty.clone(), optional, versions, nullable, tag, default })
    }

    /// Whether the value may be null at `version`; `false` for what is not an `Option`.
    fn null_test(&self) -> Tokens {
        self.nullable.map_or(quote!(false), Versions::test)
    }

    fn encode(&self) -> Tokens {
        let name = &self.name;
        match &self.optional {
            None => quote!(crate::codec::Codec::encode(&self.#name, out)),
            Some(_) => {
                let null = self.null_test();
                quote!(crate::codec::encode_option(&self.#name, #null, out))
            }
        }
    }

    fn decode(&self) -> Tokens {
        match &self.optional {
            None => quote!(crate::codec::Codec::decode(input)?),
            Some(_) => {
                let null = self.null_test();
                quote!(crate::codec::decode_option(#null, input)?)
            }
        }
    }

    fn size_min(&self) -> Tokens {
        let kind = &self.kind;
        match &self.optional {
            None => quote!(<#kind as crate::codec::Codec>::encoded_size_min(version, flexible)),
            Some(inner) => {
                let null = self.null_test();
                quote!(crate::codec::option_size_min::<#inner>(#null, version, flexible))
            }
        }
    }

    fn sample(&self) -> Tokens {
        match &self.optional {
            None => quote!(crate::sample::Sample::sample(source, version)),
            Some(_) => {
                let null = self.null_test();
                quote!(crate::sample::sample_option(#null, source, version))
            }
        }
    }

    fn shape(&self) -> Tokens {
        let Field { name, kind, versions, nullable, tag, default, .. } = self;
        let range = |versions: &Versions| {
            let Versions { first, last } = versions;
            quote!((#first, #last))
        };
        let option =
            |value: Option<Tokens>| value.map_or(quote!(None), |value| quote!(Some(#value)));
        let (name, versions) = (name.to_string(), range(versions));
        let nullable = option(nullable.as_ref().map(range));
        let tag = option(tag.map(|tag| quote!(#tag)));
        quote!({
            let default: #kind = #default;
            crate::shape::Field {
                name: #name,
                versions: #versions,
                nullable: #nullable,
                tag: #tag,
                default: ::std::format!("{default:?}"),
                kind: <#kind as crate::shape::Shaped>::kind(),
            }
        })
    }
}

/// `T` if `kind` is written `Option<T>`.
fn option_argument(kind: &Type) -> Option<Type> {
    let Type::Path(path) = kind else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Option")?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(syn::GenericArgument::Type(inner)) => Some(inner.clone()),
        _ => None,
    }
}

/// What `#[message(...)]` says of a top-level message.
struct TopLevel {
    api_key: i16,
    versions: Versions,
    flexible: Versions,
}

fn top_level(input: &DeriveInput) -> Result<Option<TopLevel>> {
    let Some(attribute) = input.attrs.iter().find(|attribute| attribute.path().is_ident("message"))
    else {
        return Ok(None);
    };
    let mut api_key = None;
    let mut versions = None;
    let mut flexible = None;
    attribute.parse_nested_meta(|meta| {
        if meta.path.is_ident("api_key") {
            api_key = Some(meta.value()?.parse::<LitInt>()?.base10_parse()?);
        } else if meta.path.is_ident("versions") {
            versions = Some(Versions::parse(&meta.value()?.parse()?)?);
        } else if meta.path.is_ident("flexible") {
            flexible = Some(Versions::parse(&meta.value()?.parse()?)?);
        } else {
            return Err(meta.error("expected api_key, versions or flexible"));
        }
        Ok(())
    })?;
    match (api_key, versions, flexible) {
        (Some(api_key), Some(versions), Some(flexible)) => {
            Ok(Some(TopLevel { api_key, versions, flexible }))
        }
        _ => Err(Error::new(Span::call_site(), "a message names api_key, versions and flexible")),
    }
}

/// Writes the codec of a Kafka message or of a struct within one; the crate's documentation shows the attributes.
#[proc_macro_derive(Message, attributes(message, field))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> Result<Tokens> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(input.ident.span(), "a message is a struct"));
    };
    let fields = match &data.fields {
        Fields::Named(named) => named.named.iter().map(Field::parse).collect::<Result<Vec<_>>>()?,
        Fields::Unit => Vec::new(),
        Fields::Unnamed(_) => {
            return Err(Error::new(input.ident.span(), "the fields of a message have names"));
        }
    };
    let message = &input.ident;
    let plain: Vec<&Field> = fields.iter().filter(|field| field.tag.is_none()).collect();
    let mut tagged: Vec<&Field> = fields.iter().filter(|field| field.tag.is_some()).collect();
    tagged.sort_by_key(|field| field.tag);
    if tagged.windows(2).any(|pair| pair[0].tag == pair[1].tag) {
        return Err(Error::new(message.span(), "two fields share a tag"));
    }

    let encode = encode(&plain, &tagged);
    let decode = decode(&fields, &plain, &tagged);
    let sizes = plain.iter().map(|field| {
        let test = field.versions.test();
        let size = field.size_min();
        quote!(if #test { size += #size; })
    });
    let names: Vec<&Ident> = fields.iter().map(|field| &field.name).collect();
    let defaults = fields.iter().map(|field| &field.default);
    let samples = fields.iter().map(|field| {
        let Field { versions, default, .. } = field;
        let test = versions.test();
        let sample = field.sample();
        quote!(if #test { #sample } else { #default })
    });
    let shapes = fields.iter().map(Field::shape);
    let errors = fields.iter().map(|Field { name, optional, .. }| match optional {
        None => quote!(crate::codec::Codec::errors(&self.#name, each)),
        Some(_) => quote! {
            self.#name.iter().for_each(|value| crate::codec::Codec::errors(value, each))
        },
    });
    let top_level = top_level(input)?.map(|TopLevel { api_key, versions, flexible }| {
        let (first, last, flexible) = (versions.first, versions.last, flexible.first);
        quote! {
            impl crate::codec::TopLevel for #message {
                const API_KEY: i16 = #api_key;
                const VERSION_MIN: i16 = #first;
                const VERSION_MAX: i16 = #last;
                const FLEXIBLE_MIN: i16 = #flexible;
            }
        }
    });

    Ok(quote! {
        impl ::core::default::Default for #message {
            fn default() -> Self {
                Self { #(#names: #defaults,)* }
            }
        }

        impl crate::codec::Codec for #message {
            fn encode(&self, out: &mut crate::codec::Encoder) {
                #encode
            }

            fn decode(
                input: &mut crate::codec::Decoder,
            ) -> ::core::result::Result<Self, crate::codec::DecodeError> {
                #decode
            }

            #[allow(unused_mut, unused_variables)]
            fn encoded_size_min(version: i16, flexible: bool) -> usize {
                let mut size = usize::from(flexible);
                #(#sizes)*
                size
            }

            #[allow(unused_variables)]
            fn errors(&self, each: &mut dyn ::core::ops::FnMut(crate::ErrorCode)) {
                #(#errors;)*
            }
        }

        impl crate::codec::Nullable for #message {}

        #[cfg(feature = "testing")]
        impl crate::sample::Sample for #message {
            #[allow(unused_variables)]
            fn sample(source: &mut crate::sample::Source, version: i16) -> Self {
                Self { #(#names: #samples,)* }
            }
        }

        #[cfg(feature = "testing")]
        impl crate::shape::Shaped for #message {
            fn kind() -> crate::shape::Kind {
                crate::shape::Kind::Struct(::std::vec![#(#shapes),*])
            }
        }

        #top_level
    })
}

fn encode(plain: &[&Field], tagged: &[&Field]) -> Tokens {
    let body = plain.iter().map(|field| {
        let test = field.versions.test();
        let encode = field.encode();
        quote!(if #test { #encode; })
    });
    let present: Vec<Ident> =
        tagged.iter().map(|field| quote::format_ident!("has_{}", field.name)).collect();
    // As in Kafka, a tagged field travels only when it differs from its default.
    let tests = tagged.iter().zip(&present).map(|(field, present)| {
        let Field { name, kind, versions, default, .. } = field;
        let test = versions.test();
        quote! {
            let default: #kind = #default;
            let #present = #test && self.#name != default;
        }
    });
    let tags = tagged.iter().zip(&present).map(|(field, present)| {
        let tag = field.tag;
        let encode = field.encode();
        quote!(if #present { out.tagged(#tag, |out| #encode); })
    });
    quote! {
        #[allow(unused_variables)]
        let version = out.version();
        #(#body)*
        if out.flexible() {
            #(#tests)*
            out.unsigned_varint(0 #(+ u32::from(#present))*);
            #(#tags)*
        }
    }
}

fn decode(fields: &[Field], plain: &[&Field], tagged: &[&Field]) -> Tokens {
    let names = fields.iter().map(|field| &field.name);
    let body = plain.iter().map(|field| {
        let Field { name, kind, versions, default, .. } = field;
        let test = versions.test();
        let decode = field.decode();
        quote!(let #name: #kind = if #test { #decode } else { #default };)
    });
    let defaults = tagged.iter().map(|field| {
        let Field { name, kind, default, .. } = field;
        quote!(let mut #name: #kind = #default;)
    });
    let arms = tagged.iter().map(|field| {
        let Field { name, tag, versions, .. } = field;
        let test = versions.test();
        let decode = field.decode();
        quote!(#tag if #test => { #name = #decode; })
    });
    quote! {
        #[allow(unused_variables)]
        let version = input.version();
        #(#body)*
        #(#defaults)*
        if input.flexible() {
            input.tagged_fields(|tag, input| {
                match tag {
                    #(#arms)*
                    _ => input.skip_rest(),
                }
                Ok(())
            })?;
        }
        Ok(Self { #(#names,)* })
    }
}
