// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/lab"
)

// block is what raw octets repeat: the same in every probe, and no frame like the
// next.
var block = func() []byte {
	b := make([]byte, 64<<10)
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(b) // which never fails
	return b
}()

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pour sends raw octets.
func pour(w io.Writer, octets uint64) error {
	for octets > 0 {
		n, err := w.Write(block[:min(octets, uint64(len(block)))])
		if err != nil {
			return err
		}
		octets -= uint64(n)
	}
	return nil
}

// drain takes raw octets, and gives their sum.
func drain(r io.Reader, octets uint64) (sum uint32, err error) {
	buffer := make([]byte, len(block))
	for octets > 0 {
		n, err := r.Read(buffer[:min(octets, uint64(len(buffer)))])
		sum = crc32.Update(sum, castagnoli, buffer[:n])
		octets -= uint64(n)
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// sumOf is what drain gives for so many octets of pour.
func sumOf(octets uint64) (sum uint32) {
	for octets > 0 {
		n := min(octets, uint64(len(block)))
		sum = crc32.Update(sum, castagnoli, block[:n])
		octets -= n
	}
	return sum
}

// carry sends raw octets behind a message, and takes those behind its answer.
func (c *dialled) carry(ctx context.Context, o *carry, answer *response) error {
	if !c.stream {
		return errors.New("carry: only a TCP connection carries octets without a bound")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer interrupts(ctx, c.socket)()
	c.last++
	start := time.Now()
	m := &said{Number: c.last, Raw: o.Up, Back: o.Down}
	err := m.write(c.socket)
	if err == nil {
		err = pour(c.socket, o.Up)
	}
	if err != nil {
		return fmt.Errorf("send %d octets: %w", o.Up, lab.Outcome(err))
	}
	var s said
	if err := s.read(c.socket); err != nil {
		return fmt.Errorf("await that %d octets have come: %w", o.Up, lab.Outcome(err))
	}
	turned := time.Now()
	sum, err := drain(c.socket, o.Down)
	if err != nil {
		return fmt.Errorf("receive %d octets: %w", o.Down, lab.Outcome(err))
	}
	if s.Sum != sumOf(o.Up) || sum != sumOf(o.Down) {
		return errors.New("other octets have come than were sent")
	}
	answer.Times = []time.Duration{turned.Sub(start), time.Since(turned)}
	return nil
}

// rounds exchanges small messages one after another.
func (c *dialled) rounds(ctx context.Context, count int, answer *response) error {
	times := make([]time.Duration, 0, min(max(count, 0), 1<<16))
	for range cap(times) {
		start := time.Now()
		if err := c.talk(ctx, new(said), new(response)); err != nil {
			return err
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	answer.Times = times
	return nil
}

// padded is a message of so many octets at least: JSON takes blanks behind it.
func padded(body []byte, size int) []byte {
	if missing := size - len(body); missing > 0 {
		body = append(body, bytes.Repeat([]byte{' '}, missing)...)
	}
	return body
}

// aside is how much of a full datagram is not its text, in octets, at most.
const aside = 320

// fill exchanges datagrams of so many octets.
func (c *dialled) fill(ctx context.Context, size int, answer *response) error {
	if c.stream || size < aside {
		return fmt.Errorf("fill: only a datagram of %d octets or more is made so long", aside)
	}
	text := make([]byte, (size-aside)/4*3) // JSON has four letters for three octets
	rand.Read(text)
	if err := c.talk(ctx, &said{Text: text, Full: true, size: size}, answer); err != nil {
		return err
	}
	got := answer.Answer
	answer.Answer = nil
	if !bytes.Equal(got, text) {
		return errors.New("another text has come than was sent")
	}
	return nil
}

// do asks by the resolver's configuration of the host, whatever it says of how.
func (l *Lookup) do(ctx context.Context, answer *response) error {
	network := map[bool]string{false: "udp", true: "tcp"}[l.TCP]
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, server string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
	got, err := resolver.LookupNetIP(ctx, map[bool]string{false: "ip4", true: "ip6"}[l.V6], l.Name)
	if err != nil {
		return fmt.Errorf("look up %s: %w", l.Name, lab.Outcome(err))
	}
	for i := range got {
		answer.Addresses = append(answer.Addresses, got[i].Unmap())
	}
	slices.SortFunc(answer.Addresses, netip.Addr.Compare)
	return nil
}
