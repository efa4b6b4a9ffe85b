// SPDX-License-Identifier: Apache-2.0

package lab

import "errors"

// What an exchange may end in. Each world wraps them with who, where and what.
var (
	// ErrRefused: the other side, or the datapath on its behalf, refused at once.
	ErrRefused = errors.New("refused")
	// ErrTimeout: nothing came back in time.
	ErrTimeout = errors.New("timed out")
	// ErrReset: the connection was there and was reset.
	ErrReset = errors.New("connection reset")
)
