//! `ToAddresses`: the types that are accepted as addresses.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    rc::Rc,
    sync::Arc,
};

use super::{
    Address, Addresses,
    errors::{ANY_FORM, invalid},
};
use crate::error::InvalidAddress;

/// What names one server or several: a text, a `(host, port)`, a [`SocketAddr`], an [`Address`], or a list of
/// these.
///
/// ```
/// use metrics_client::client::ToAddresses;
///
/// for one in ["metrics://a:8888", "a:8888"] {
///     assert_eq!(one.to_addresses()?.to_string(), "a:8888");
/// }
/// assert_eq!(("::1", 8888).to_addresses()?.to_string(), "[::1]:8888");
/// assert_eq!(["a:1", "b:2"].to_addresses()?.to_string(), "a:1,b:2");
/// # Ok::<(), metrics_client::error::InvalidAddress>(())
/// ```
pub trait ToAddresses {
    /// Returns the addresses.
    ///
    /// A single text that has none of the forms of [`Address`] and is no URL of this crate becomes
    /// [`Address::custom`]: a [`Connector`](crate::client::Connector) of the caller's own may understand it, and those of this crate
    /// reject it with the reason.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`] if no connection can ever be made to one of them, or an option is invalid.
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress>;
}

impl ToAddresses for str {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        Addresses::parse_or_custom(self)
    }
}

impl ToAddresses for String {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        self.as_str().to_addresses()
    }
}

impl ToAddresses for Cow<'_, str> {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        self.as_ref().to_addresses()
    }
}

impl ToAddresses for Address {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        Ok(self.clone().into())
    }
}

impl ToAddresses for Addresses {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        Ok(self.clone())
    }
}

impl ToAddresses for SocketAddr {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        match self {
            Self::V4(address) => address.to_addresses(),
            Self::V6(address) => address.to_addresses(),
        }
    }
}

impl ToAddresses for SocketAddrV4 {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        (*self.ip(), self.port()).to_addresses()
    }
}

impl ToAddresses for SocketAddrV6 {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        match self.scope_id() {
            0 => (*self.ip(), self.port()).to_addresses(),
            scope => (format!("{}%{scope}", self.ip()), self.port()).to_addresses(),
        }
    }
}

macro_rules! hosts {
    ($($host:ty),*) => {$(
        impl ToAddresses for ($host, u16) {
            fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
                let (host, port) = self;
                Address::tcp(host, *port).map(Into::into)
            }
        }
    )*};
}

hosts!(&str, &String, String, Box<str>, Cow<'_, str>);

macro_rules! ips {
    ($($ip:ty),*) => {$(
        impl ToAddresses for ($ip, u16) {
            fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
                let (ip, port) = self;
                Address::tcp(&ip.to_string(), *port).map(Into::into)
            }
        }
    )*};
}

ips!(IpAddr, Ipv4Addr, Ipv6Addr);

impl<A: ToAddresses> ToAddresses for [A] {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        collect(self)
    }
}

impl<A: ToAddresses, const N: usize> ToAddresses for [A; N] {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        collect(self)
    }
}

impl<A: ToAddresses> ToAddresses for Vec<A> {
    fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
        collect(self)
    }
}

macro_rules! pointers {
    ($($pointer:ty),*) => {$(
        impl<A: ToAddresses + ?Sized> ToAddresses for $pointer {
            fn to_addresses(&self) -> Result<Addresses, InvalidAddress> {
                (**self).to_addresses()
            }
        }
    )*};
}

pointers!(&A, Box<A>, Rc<A>, Arc<A>);

fn collect<A: ToAddresses>(list: impl IntoIterator<Item = A>) -> Result<Addresses, InvalidAddress> {
    let mut all = Addresses::none();
    for addresses in list {
        let addresses = addresses.to_addresses()?;
        if let Some(error) = addresses.servers.iter().find_map(Address::error) {
            return Err(error);
        }
        let text = addresses.to_string();
        all.append(addresses).map_err(|reason| invalid(&text, reason, ANY_FORM))?;
    }
    if all.servers.is_empty() {
        return Err(invalid("", "the list of servers is empty", ANY_FORM));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(addresses: impl ToAddresses) -> String {
        addresses.to_addresses().unwrap().to_string()
    }

    #[test]
    fn to_addresses_takes_what_users_have_at_hand() {
        let socket: SocketAddr = "127.0.0.1:8888".parse().unwrap();
        let v6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 8888, 0, 2);
        let (name, text_of) = ("a".to_owned(), "a:8888".to_owned());
        assert_eq!(text(socket), "127.0.0.1:8888");
        assert_eq!(text(socket), "127.0.0.1:8888");
        assert_eq!(text(v6), "[::1%2]:8888");
        for addresses in
            [text("a:8888"), text(&text_of), text(text_of), text(Box::<str>::from("a:8888"))]
                .into_iter()
                .chain([text(Cow::from("a:8888")), text(Arc::<str>::from("a:8888"))])
                .chain([text(("a", 8888)), text((&name, 8888)), text((name, 8888))])
                .chain([text(Address::tcp("a", 8888).unwrap())])
        {
            assert_eq!(addresses, "a:8888");
        }
        assert_eq!(text(("::1", 1)), "[::1]:1");
        assert_eq!(text(("[::1]", 1)), "[::1]:1");
        assert_eq!(text((Ipv4Addr::LOCALHOST, 1)), "127.0.0.1:1");
        assert_eq!(text(vec![("a", 1), ("b", 2)]), "a:1,b:2");
        assert_eq!(text(&[socket, socket][..]), "127.0.0.1:8888");
        assert_eq!(text(["a:1,b:2", "unix:/c"]), text(["a:1", "b:2", "unix:/c"]));
    }

    #[test]
    fn to_addresses_keeps_other_text_for_other_connectors() {
        let custom = "a pipe".to_addresses().unwrap();
        assert_eq!(custom.servers()[0].as_str(), "a pipe");
        let error = custom.servers()[0].error().unwrap().to_string();
        assert!(error.contains("white space"), "{error}");
        for ours in ["metrics://a", "metrics+tsl://a:1", "unix:"] {
            ours.to_addresses().unwrap_err();
        }
        ["a:1", "a pipe"].to_addresses().unwrap_err();
        let none: [&str; 0] = [];
        let error = none.to_addresses().unwrap_err().to_string();
        assert!(error.contains("the list of servers is empty"), "{error}");
    }
}
