// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
)

// ErrAway is an agent that does not answer on its socket.
var ErrAway = errors.New("the agent of this node does not answer")

// Client asks a node's agent.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient gives a client for the agent at a socket. It does not connect yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Get reads what a path has into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.ask(ctx, http.MethodGet, path, nil, out)
}

// Post sends in to a path, and reads the answer into out unless it is nil.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.ask(ctx, http.MethodPost, path, in, out)
}

// Delete removes what is at a path.
func (c *Client) Delete(ctx context.Context, path string) error {
	return c.ask(ctx, http.MethodDelete, path, nil, nil)
}

// ask fails with ErrAway if the agent is not there, and with *Error if it
// refuses.
func (c *Client) ask(ctx context.Context, method, path string, in, out any) error {
	answer, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(answer.Body).Decode(out); err != nil {
		return fmt.Errorf("read the agent's answer to %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode what is asked of the agent: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	answer, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("ask the agent at %s: %w: run as root", c.socket, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return nil, fmt.Errorf("ask the agent at %s: %w: look at the pod weir of this node in namespace kube-system", c.socket, ErrAway)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("ask the agent at %s: it is there: %w", c.socket, context.DeadlineExceeded)
	case err != nil:
		return nil, fmt.Errorf("ask the agent at %s: %w", c.socket, err)
	case answer.StatusCode/100 == 2:
		return answer, nil
	}
	defer answer.Body.Close()
	refusal := &Error{Again: answer.StatusCode >= http.StatusInternalServerError}
	if err := json.NewDecoder(answer.Body).Decode(refusal); err != nil || refusal.Message == "" {
		refusal.Message = fmt.Sprintf("the agent answers %s to %s %s", answer.Status, method, path)
	}
	return nil, refusal
}

// Stream gives each line of what a path sends, until it ends, ctx ends, or
// line fails.
func (c *Client) Stream(ctx context.Context, path string, line func(json.RawMessage) error) error {
	answer, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines := json.NewDecoder(answer.Body)
	for {
		var raw json.RawMessage
		err := lines.Decode(&raw)
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("read from the agent: %w: it has ended", ErrAway)
		case err != nil:
			return fmt.Errorf("read from the agent: %w", err)
		}
		if err := line(raw); err != nil {
			return err
		}
	}
}
