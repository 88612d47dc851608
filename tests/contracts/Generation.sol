// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

/// The generation flag: which protocol version a test contract plays. Ordered, so that
/// "since v0.9.7" reads `generation >= Generation.V0_9_7`.
library Generation {
    uint8 internal constant G7 = 70; // v0.7.x: no extraData, one id counter, pausable responses
    uint8 internal constant G8 = 80; // v0.8.1: extraData, ids as before
    uint8 internal constant V0_9_0 = 90; // tagged ids, one event per share
    uint8 internal constant V0_9_7 = 97; // signer and transaction sender must belong together
    uint8 internal constant G10 = 100; // PublicDecryptionResponseCall
    uint8 internal constant G12 = 120; // responses are gated by KMS context, not by sender
    uint8 internal constant G13 = 130; // the context is pinned when a request is made
    uint8 internal constant G14 = 140; // unified user requests, contexts and epochs with a lifecycle
    uint8 internal constant HEAD = 150; // two events for each request

    /// What a call to a function that a generation does not have does: it reverts without data.
    function need(bool has) internal pure {
        if (!has) {
            assembly {
                revert(0, 0)
            }
        }
    }
}
