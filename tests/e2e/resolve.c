/* Resolves a name by the C library that it is linked with: `resolve NAME`, which prints its first address. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char address[256];
    int failed = argc < 2 ? EAI_NONAME : getaddrinfo(argv[1], NULL, &hints, &found);
    if (failed) {
        printf("no: %s\n", gai_strerror(failed));
        return 1;
    }
    getnameinfo(found->ai_addr, found->ai_addrlen, address, sizeof address, NULL, 0, NI_NUMERICHOST);
    printf("%s\n", address);
    return 0;
}
