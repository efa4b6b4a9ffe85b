// SPDX-License-Identifier: Apache-2.0

// Package probe is the hands of a host that the lab reaches only over the
// network, a pod of a live cluster above all: an agent there listens, dials,
// talks and pings as it is told, and says how that ended.
//
// It is told over one stream of bytes, by lines of JSON, many at a time; it
// opens no port by itself, and knows nothing of Kubernetes. Its one invariant
// is that whatever was opened for a stream is closed when the stream ends.
package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// request asks for one of what it has; Number is that of the answer.
type request struct {
	Number  uint64        `json:"number"`
	Within  time.Duration `json:"within,omitempty"` // 0: for ever
	Token   string        `json:"token,omitempty"`
	Listen  *Listen       `json:"listen,omitempty"`
	Dial    *Dial         `json:"dial,omitempty"`
	Talk    *talk         `json:"talk,omitempty"`
	Close   *uint64       `json:"close,omitempty"`
	Ping    *netip.Addr   `json:"ping,omitempty"`
	Size    int           `json:"size,omitempty"` // of what Ping sends
	Lookup  *Lookup       `json:"lookup,omitempty"`
	Carry   *carry        `json:"carry,omitempty"`
	Rounds  *rounds       `json:"rounds,omitempty"`
	Forget  bool          `json:"forget,omitempty"`
	Welcome bool          `json:"welcome,omitempty"`
	// Capture begins one, and Captured ends that of a number.
	Capture  *Capture `json:"capture,omitempty"`
	Captured *uint64  `json:"captured,omitempty"`
}

// Listen is a port that is served at addresses, by TCP or UDP.
type Listen struct {
	Name      string         `json:"name"` // what the server calls itself
	Protocol  model.Protocol `json:"protocol"`
	Port      uint16         `json:"port"`
	Addresses []netip.Addr   `json:"addresses"`
	// Answer is what is said to every message; nil: the message. An empty one
	// is none.
	Answer *string `json:"answer,omitempty"`
}

// Dial is whom to dial, from which port; 0: any.
type Dial struct {
	Protocol model.Protocol `json:"protocol"`
	Sport    uint16         `json:"sport,omitempty"`
	To       netip.AddrPort `json:"to"`
}

// talk is a message on a connection that was dialled.
type talk struct {
	Conn    uint64 `json:"conn"`
	Message []byte `json:"message"`
	// Size is that of the datagram, and of the one that answers it, in octets; its
	// text is one by chance. 0: as it comes, with Message.
	Size int `json:"size,omitempty"`
}

// Lookup is a name that the host's own resolver is asked for.
type Lookup struct {
	Name string `json:"name"`
	TCP  bool   `json:"tcp,omitempty"` // how it is asked; else by UDP
	V6   bool   `json:"v6,omitempty"`  // for addresses of which family
}

// carry moves octets over a TCP connection that was dialled, there and back.
type carry struct {
	Conn uint64 `json:"conn"`
	Up   uint64 `json:"up"`
	Down uint64 `json:"down"`
}

// rounds are small messages on a connection, each after the answer to the last.
type rounds struct {
	Conn  uint64 `json:"conn"`
	Count int    `json:"count"`
}

type response struct {
	Number uint64         `json:"number"`
	Error  string         `json:"error,omitempty"`
	Ended  string         `json:"ended,omitempty"` // the lab's word, for some errors
	Conn   uint64         `json:"conn,omitempty"`  // or that of a capture
	Local  netip.AddrPort `json:"local,omitzero"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	Peer   netip.AddrPort `json:"peer,omitzero"`
	Server string         `json:"server,omitempty"`
	Answer []byte         `json:"answer,omitempty"`
	MTU    int            `json:"mtu,omitempty"` // of the path, as the kernel knows it
	// Addresses are those of a name.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Times are those of each round, or of the way there and the way back.
	Times  []time.Duration `json:"times,omitempty"`
	Frames []Captured      `json:"frames,omitempty"` // of a capture
}

// ended are the lab's words on the wire.
var ended = map[string]error{"refused": lab.ErrRefused, "timeout": lab.ErrTimeout, "reset": lab.ErrReset}

// fail puts an error into the answer.
func (r *response) fail(err error) {
	if err == nil {
		return
	}
	r.Error = err.Error()
	for word, is := range ended {
		if errors.Is(err, is) {
			r.Ended = word
		}
	}
}

// failure is what fail has put in.
func (r *response) failure() error {
	if r.Error == "" {
		return nil
	}
	if is := ended[r.Ended]; is != nil {
		return &remoteError{r.Error, is}
	}
	return errors.New(r.Error)
}

// remoteError is an error of the agent's, with the lab's word in it.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// said is what agents say to each other. The server answers by who it is and
// whom it sees, so that nobody else has to bring the two ends together.
type said struct {
	Number uint64         `json:"number"` // of the message, which its answer has too
	Text   []byte         `json:"text,omitempty"`
	Hello  bool           `json:"hello,omitempty"` // nothing is said yet
	Bye    bool           `json:"bye,omitempty"`   // the server is to close first
	Server string         `json:"server,omitempty"`
	Peer   netip.AddrPort `json:"peer,omitzero"`
	// Full datagrams are answered by one of their size.
	Full bool `json:"full,omitempty"`
	// Raw octets follow this message on its stream, and Back are to follow the answer.
	// Sum is that of those which came.
	Raw  uint64 `json:"raw,omitempty"`
	Back uint64 `json:"back,omitempty"`
	Sum  uint32 `json:"sum,omitempty"`

	size int // of the datagram, in octets at least
}

// longest is how long a message of a stream may be.
const longest = 1 << 20

// write sends a message in one piece, behind its length.
func (s *said) write(w io.Writer) error {
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// read is its other end.
func (s *said) read(r io.Reader) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > longest {
		return fmt.Errorf("read message: %d octets are more than any has: the other end is no probe", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	*s = said{}
	if err := json.Unmarshal(body, s); err != nil {
		return fmt.Errorf("read message: the other end is no probe: %w", err)
	}
	return nil
}
