/* A process around flannel's C proxy: what flannel's Go code does before and beside run_proxy, for one node.
 *
 * usage: DEVICE MTU SOURCE LOCAL PORT [NETWORK LENGTH NEXT_HOP]...
 *
 * The TUN device is opened as in pkg/ip/tun.go, the socket as in pkg/backend/udp/udp_network_amd64.go (and blocking, as
 * os.File.Fd() leaves it), routes go through the control socket as in cproxy_amd64.go. Compiled with flannel's
 * proxy_amd64.c by tests/bench/flannel.py. Says "ready" on standard output; killed when it is not wanted any more.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy_amd64.h"

enum { PROGRAM, DEVICE, MTU, SOURCE, LOCAL, PORT, ROUTES, ROUTE_WORDS = 3 };

static void die(const char *what) {
	perror(what);
	exit(1);
}

static in_addr_t address(const char *text) {
	struct in_addr found;

	if (inet_pton(AF_INET, text, &found) != 1) {
		fprintf(stderr, "%s: not an IPv4 address\n", text);
		exit(2);
	}
	return found.s_addr;
}

static int open_tun(const char *name) {
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int tun = open("/dev/net/tun", O_RDWR);

	if (tun < 0)
		die("/dev/net/tun");
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(tun, TUNSETIFF, &request) < 0)
		die(name);
	return tun;
}

static int open_socket(const char *local, int port) {
	struct sockaddr_in place = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = address(local) };
	int opened = socket(AF_INET, SOCK_DGRAM, 0);

	if (opened < 0 || bind(opened, (struct sockaddr *)&place, sizeof(place)) < 0)
		die(local);
	return opened;
}

static void set_route(int control, char **words, int port) {
	struct command order = {
		.cmd = CMD_SET_ROUTE,
		.dest_net = address(words[0]),
		.dest_net_len = atoi(words[1]),
		.next_hop_ip = address(words[2]),
		.next_hop_port = port,
	};

	if (write(control, &order, sizeof(order)) != sizeof(order))
		die("control socket");
}

int main(int count, char **words) {
	int control[2], tun, opened, port;

	if (count < ROUTES || (count - ROUTES) % ROUTE_WORDS) {
		fprintf(stderr, "usage: %s DEVICE MTU SOURCE LOCAL PORT [NETWORK LENGTH NEXT_HOP]...\n", words[PROGRAM]);
		return 2;
	}
	port = atoi(words[PORT]);
	tun = open_tun(words[DEVICE]);
	opened = open_socket(words[LOCAL], port);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, control) < 0)
		die("control socket");
	for (int word = ROUTES; word < count; word += ROUTE_WORDS)
		set_route(control[0], words + word, port);
	puts("ready");
	fflush(stdout);
	run_proxy(tun, opened, control[1], address(words[SOURCE]), atoi(words[MTU]), 0);
	return 0;
}
