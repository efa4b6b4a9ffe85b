// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/weirnet/weir/lab"
)

// ErrGone is of an agent whose stream has ended: the pod was deleted, or the API
// server, which carries the stream, is away.
var ErrGone = errors.New("the probe does not answer any more")

// Client tells one agent what to do. Its methods may be called by several
// goroutines.
type Client struct {
	stream io.ReadWriteCloser
	token  string
	ended  chan struct{} // closed when the reader is

	mu      sync.Mutex
	out     *json.Encoder
	last    uint64
	waiting map[uint64]chan *response
}

// NewClient speaks to the agent at the other end of a stream, which it closes.
func NewClient(stream io.ReadWriteCloser, token string) *Client {
	c := &Client{stream: stream, token: token, ended: make(chan struct{}), out: json.NewEncoder(stream), waiting: map[uint64]chan *response{}}
	go c.read()
	return c
}

func (c *Client) read() {
	defer close(c.ended)
	in := json.NewDecoder(c.stream)
	for {
		r := new(response)
		if in.Decode(r) != nil {
			return
		}
		c.mu.Lock()
		waits := c.waiting[r.Number]
		delete(c.waiting, r.Number)
		c.mu.Unlock()
		if waits != nil {
			waits <- r
		}
	}
}

// Close ends the stream, and with it all that the agent has opened for it.
func (c *Client) Close() error {
	err := c.stream.Close()
	<-c.ended
	return err
}

// grace is for the way to the agent and back: it ends what it does in time itself.
const grace = 5 * time.Second

func (c *Client) ask(ctx context.Context, r request) (*response, error) {
	if err := ctx.Err(); err != nil {
		return nil, lab.Outcome(err)
	}
	var late <-chan time.Time
	if deadline, has := ctx.Deadline(); has {
		r.Within = max(time.Until(deadline), time.Millisecond)
		timer := time.NewTimer(r.Within + grace)
		defer timer.Stop()
		late = timer.C
	}
	answer := make(chan *response, 1)
	c.mu.Lock()
	c.last++
	r.Number, r.Token = c.last, c.token
	c.waiting[r.Number] = answer
	err := c.out.Encode(&r)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, r.Number)
		c.mu.Unlock()
	}()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	for done := ctx.Done(); ; done = nil {
		select {
		case got := <-answer:
			return got, got.failure()
		case <-c.ended:
			return nil, ErrGone
		case <-late:
			return nil, ErrGone
		case <-done: // of a deadline the agent tells itself
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
		}
	}
}

// Welcome is answered by an agent that is there and takes the token.
func (c *Client) Welcome(ctx context.Context) error {
	_, err := c.ask(ctx, request{Welcome: true})
	return err
}

// Forget closes everything that the agent has opened for this client.
func (c *Client) Forget(ctx context.Context) error {
	_, err := c.ask(ctx, request{Forget: true})
	return err
}

// Listen serves a port until the client is closed, or Forget.
func (c *Client) Listen(ctx context.Context, l Listen) error {
	_, err := c.ask(ctx, request{Listen: &l})
	return err
}

// Ping sends an ICMP echo request and awaits the reply. lab.ErrTimeout, and
// lab.ErrRefused where an ICMP error says so.
func (c *Client) Ping(ctx context.Context, to netip.Addr) error { return c.PingOf(ctx, to, 0) }

// PingOf is Ping with so many octets of text, 16 at least.
func (c *Client) PingOf(ctx context.Context, to netip.Addr, size int) error {
	_, err := c.ask(ctx, request{Ping: &to, Size: size})
	return err
}

// Lookup asks the host's resolver for the addresses of a name, sorted. lab.ErrTimeout.
func (c *Client) Lookup(ctx context.Context, l Lookup) ([]netip.Addr, error) {
	r, err := c.ask(ctx, request{Lookup: &l})
	if err != nil {
		return nil, err
	}
	return r.Addresses, nil
}

// Dial opens a TCP connection to another agent's port, or a connected UDP socket.
// lab.ErrRefused, lab.ErrTimeout, lab.ErrReset.
func (c *Client) Dial(ctx context.Context, d Dial) (*Conn, error) {
	r, err := c.ask(ctx, request{Dial: &d})
	if err != nil {
		return nil, err
	}
	return &Conn{client: c, mtu: r.MTU, seen: *r}, nil
}

// Conn is a connection of the agent's. Its methods may be called by several
// goroutines.
type Conn struct {
	client *Client
	mtu    int

	mu   sync.Mutex
	seen response // what was told last
}

var _ lab.Conn = (*Conn)(nil)

func (c *Conn) last() response {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// Local and Remote are the connection's ends as the dialling host sees them.
func (c *Conn) Local() netip.AddrPort  { return c.last().Local }
func (c *Conn) Remote() netip.AddrPort { return c.last().Remote }

// Peer is the dialling end as the server sees it, and Server the server's name.
func (c *Conn) Peer() netip.AddrPort { return c.last().Peer }
func (c *Conn) Server() string       { return c.last().Server }

// MTU is that of the path in octets of an IP packet, as the dialling host knew it at
// first.
func (c *Conn) MTU() int { return c.mtu }

// Fill sends a datagram of so many octets, and awaits one as long with the same text.
func (c *Conn) Fill(ctx context.Context, size int) error {
	number := c.last().Conn
	r, err := c.client.ask(ctx, request{Talk: &talk{Conn: number, Size: size}})
	if err != nil {
		return err
	}
	c.learn(r, number)
	return nil
}

// learn takes what an answer says of the conversation.
func (c *Conn) learn(r *response, number uint64) {
	r.Conn = number
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = *r
}

// Carry sends octets to the server of a TCP connection and takes some from it. Either
// side checks what has come. It gives the time of each way.
func (c *Conn) Carry(ctx context.Context, up, down uint64) (there, back time.Duration, err error) {
	r, err := c.client.ask(ctx, request{Carry: &carry{c.last().Conn, up, down}})
	if err != nil {
		return 0, 0, err
	}
	if len(r.Times) != 2 {
		return 0, 0, errOtherVersion
	}
	return r.Times[0], r.Times[1], nil
}

// Rounds sends small messages, each when the last was answered, and gives the time of
// each, shortest first.
func (c *Conn) Rounds(ctx context.Context, count int) ([]time.Duration, error) {
	r, err := c.client.ask(ctx, request{Rounds: &rounds{c.last().Conn, count}})
	if err != nil {
		return nil, err
	}
	return r.Times, nil
}

// Exchange sends a message and gives the answer.
func (c *Conn) Exchange(ctx context.Context, message []byte) ([]byte, error) {
	number := c.last().Conn
	r, err := c.client.ask(ctx, request{Talk: &talk{Conn: number, Message: message}})
	if err != nil {
		return nil, err
	}
	c.learn(r, number)
	return r.Answer, nil
}

// Close ends the conversation.
func (c *Conn) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	number := c.last().Conn
	_, err := c.client.ask(ctx, request{Close: &number})
	if errors.Is(err, ErrGone) {
		return nil // and the connection with it
	}
	return err
}
