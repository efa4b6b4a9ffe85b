// SPDX-License-Identifier: Apache-2.0

// Package healthcheck answers load balancers that ask whether a node has
// backends of a Service with externalTrafficPolicy Local, on the Service's
// healthCheckNodePort: 200 where it has some, 503 where it has none.
//
// It knows only what Sync has told it, and watches nothing itself. Its one
// invariant: a port is open exactly while the last Sync names it.
package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/model/compile"
)

// Server answers health checks. The zero Server listens on all addresses of
// the process's network namespace.
type Server struct {
	// Listen opens a TCP port; nil is net.Listen on all addresses.
	Listen func(port uint16) (net.Listener, error)

	mu    sync.Mutex
	ports map[uint16]*port
}

// port is one open port, and what is answered there.
type port struct {
	check    atomic.Pointer[compile.HealthCheck]
	listener net.Listener
	server   *http.Server
}

// close closes the listener too: the server does not know it before Serve has
// begun.
func (p *port) close() error {
	if err := p.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close the port of health checks %s: %w", p.listener.Addr(), err)
	}
	if err := p.server.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close connections of health checks: %w", err)
	}
	return nil
}

// An asker that sends nothing is let go.
const readTimeout = 5 * time.Second

// Sync opens and closes ports so that these checks are answered, and no others.
// A port that cannot be opened does not keep others from being: all errors are
// joined, and the next Sync tries again.
func (s *Server) Sync(checks []compile.HealthCheck) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports == nil {
		s.ports = map[uint16]*port{}
	}
	var errs []error
	wanted := map[uint16]bool{}
	for _, check := range checks {
		if wanted[check.Port] {
			errs = append(errs, fmt.Errorf("answer health checks of Service %s on port %d: another Service has that healthCheckNodePort", check.Service, check.Port))
			continue
		}
		wanted[check.Port] = true
		if err := s.set(check); err != nil {
			errs = append(errs, err)
		}
	}
	for number, p := range s.ports {
		if !wanted[number] {
			errs = append(errs, p.close())
			delete(s.ports, number)
		}
	}
	return errors.Join(errs...)
}

func (s *Server) set(check compile.HealthCheck) error {
	if p := s.ports[check.Port]; p != nil {
		p.check.Store(&check)
		return nil
	}
	listen := s.Listen
	if listen == nil {
		listen = func(number uint16) (net.Listener, error) {
			return new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort("", strconv.Itoa(int(number))))
		}
	}
	listener, err := listen(check.Port)
	if err != nil {
		return fmt.Errorf("answer health checks of Service %s on port %d: %w", check.Service, check.Port, err)
	}
	p := &port{listener: listener}
	p.check.Store(&check)
	p.server = &http.Server{Handler: p, ReadTimeout: readTimeout, WriteTimeout: readTimeout}
	s.ports[check.Port] = p
	// It ends by Close alone, which gives ErrServerClosed.
	go func() { _ = p.server.Serve(listener) }()
	return nil
}

// Close closes all ports.
func (s *Server) Close() error { return s.Sync(nil) }

// answer is the body, as kube-proxy gives it.
type answer struct {
	Service        serviceName `json:"service"`
	LocalEndpoints int         `json:"localEndpoints"`
}

type serviceName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// ServeHTTP answers whatever path is asked for.
func (p *port) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	check := p.check.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// Load balancers may share out by it.
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(check.Local))
	if check.Local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// An asker that is gone is no concern of ours.
	_ = json.NewEncoder(w).Encode(answer{
		Service:        serviceName{Namespace: check.Service.Namespace, Name: check.Service.Name},
		LocalEndpoints: check.Local,
	})
}
