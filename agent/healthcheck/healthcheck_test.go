// SPDX-License-Identifier: Apache-2.0

package healthcheck_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/agent/healthcheck"
	"github.com/weirnet/weir/model/compile"
)

var web = types.NamespacedName{Namespace: "default", Name: "web"}

// loopback opens ports of 127.0.0.1 that the kernel chooses, and tells which.
func loopback(opened map[uint16]string) func(uint16) (net.Listener, error) {
	return func(port uint16) (net.Listener, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			opened[port] = l.Addr().String()
		}
		return l, err
	}
}

func ask(t *testing.T, address string) (int, string, http.Header) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(fmt.Sprintf("http://%s/healthz", address))
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body), response.Header
}

func TestANodeWithBackendsAnswers200AndOneWithout503(t *testing.T) {
	opened := map[uint16]string{}
	server := healthcheck.Server{Listen: loopback(opened)}
	t.Cleanup(func() { require.NoError(t, server.Close()) })

	require.NoError(t, server.Sync([]compile.HealthCheck{{Service: web, Port: 32000, Local: 2}}))
	status, body, header := ask(t, opened[32000])
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"service":{"namespace":"default","name":"web"},"localEndpoints":2}`, body)
	require.Equal(t, "2", header.Get("X-Load-Balancing-Endpoint-Weight"))

	require.NoError(t, server.Sync([]compile.HealthCheck{{Service: web, Port: 32000}}))
	status, body, _ = ask(t, opened[32000])
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.JSONEq(t, `{"service":{"namespace":"default","name":"web"},"localEndpoints":0}`, body)
}

func TestAPortThatIsNamedNoMoreIsClosed(t *testing.T) {
	opened := map[uint16]string{}
	server := healthcheck.Server{Listen: loopback(opened)}
	t.Cleanup(func() { require.NoError(t, server.Close()) })

	require.NoError(t, server.Sync([]compile.HealthCheck{{Service: web, Port: 32000}}))
	require.NoError(t, server.Sync(nil))
	_, err := net.Dial("tcp", opened[32000])
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestAPortThatIsTakenIsToldAndTheOthersAreOpen(t *testing.T) {
	opened := map[uint16]string{}
	taken := errors.New("address already in use")
	server := healthcheck.Server{Listen: func(port uint16) (net.Listener, error) {
		if port == 32001 {
			return nil, taken
		}
		return loopback(opened)(port)
	}}
	t.Cleanup(func() { require.NoError(t, server.Close()) })

	other := types.NamespacedName{Namespace: "default", Name: "other"}
	err := server.Sync([]compile.HealthCheck{{Service: other, Port: 32001}, {Service: web, Port: 32000, Local: 1}})
	require.ErrorIs(t, err, taken)
	require.ErrorContains(t, err, "answer health checks of Service default/other on port 32001")
	status, _, _ := ask(t, opened[32000])
	require.Equal(t, http.StatusOK, status)
}
