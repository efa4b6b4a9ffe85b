// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// What an exchange may end in. Each world wraps them with who, where and what.
var (
	// ErrRefused: the other side, or the datapath on its behalf, refused at once.
	ErrRefused = errors.New("refused")
	// ErrTimeout: nothing came back in time.
	ErrTimeout = errors.New("timed out")
	// ErrReset: the connection was there and was reset.
	ErrReset = errors.New("connection reset")
)

// Outcome puts the lab's word to how a socket call ended. Errors that say
// that there is no way (EHOSTUNREACH, ENETUNREACH) have none: the sender's own
// stack gives them too, and a broken neighbour is no refusal.
func Outcome(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", ErrReset, err)
	case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EDESTADDRREQ): // what was connected is not any more
		return fmt.Errorf("%w: %w", ErrReset, err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}

// Prohibited puts the lab's word to what a connected socket of datagrams reads where
// an ICMP error says that its peer is administratively prohibited. Of what IPv4 makes
// EHOSTUNREACH only errors of that kind end a read: that a host or a neighbour cannot
// be reached does not (icmp_err_convert in net/ipv4/icmp.c).
func Prohibited(err error) error {
	if errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
