// SPDX-License-Identifier: Apache-2.0

// Package compile turns Kubernetes' objects into the State of a node. All is the
// whole of it: it gives the state, and warnings of what the objects hardly mean, or
// refuses the objects that it can make nothing of. An Incremental gives the same to
// who asks again when little has changed, and its Keep leaves out what is refused.
package compile
