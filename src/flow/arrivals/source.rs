//! The source of arrivals: events of some contracts of one chain, read through an adapter that can decode
//! them.

use crate::{
    chain::{
        reader::{Attributed, ChainReader, LogFilter, LogRange, NodeId, RangeLogs},
        rpc_error::RpcError,
    },
    contracts::{abi::DecodeError, decryption::RequestContract},
    domain::{Event, Request},
};

/// Contracts of one chain whose events are requests.
pub trait EventSource: Clone + Send + Sync + 'static {
    type Chain: ChainReader;

    fn chain(&self) -> &Self::Chain;
    /// The same contracts, read from this node only.
    #[must_use]
    fn only(&self, node: NodeId) -> Self;
    /// The contracts, and the first topics of all events that are read.
    fn filter(&self) -> LogFilter<'_>;
    /// Returns whether the event is not a request but reports an upgrade of the contract.
    fn is_upgrade(&self, event: &Event) -> bool;
    /// Returns whether the event is known and asks for nothing.
    fn is_notice(&self, event: &Event) -> bool;
    fn decode(&self, event: &Event) -> Result<Request, DecodeError>;

    /// The events of a block or of a range, in chain order.
    fn events(
        &self,
        range: LogRange,
    ) -> impl Future<Output = Result<Attributed<Vec<Event>>, RpcError>> + Send {
        self.chain().logs(self.filter(), range)
    }

    /// The events of a range with the headers of its first and last block, all from one node.
    fn events_between(
        &self,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<RangeLogs, RpcError>> + Send {
        self.chain().logs_between(self.filter(), from, to)
    }
}

impl<P: ChainReader> EventSource for RequestContract<P> {
    type Chain = P;

    fn chain(&self) -> &P {
        self.provider()
    }

    fn only(&self, node: NodeId) -> Self {
        self.for_node(node)
    }

    fn filter(&self) -> LogFilter<'_> {
        self.filter()
    }

    fn is_upgrade(&self, event: &Event) -> bool {
        self.is_upgrade(event)
    }

    fn is_notice(&self, event: &Event) -> bool {
        self.is_notice(event)
    }

    fn decode(&self, event: &Event) -> Result<Request, DecodeError> {
        self.decode(event)
    }
}
