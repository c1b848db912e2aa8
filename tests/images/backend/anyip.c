/* rtnetlink(7): one RTM_NEWROUTE of type local in the table `local`, and the kernel takes in what is for the whole prefix. */
#include "anyip.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct message {
    struct nlmsghdr head;
    struct rtmsg route;
    char attributes[64];
};

static void add(struct message *m, unsigned short type, const void *value, size_t size)
{
    struct rtattr *attribute = (struct rtattr *)((char *)m + NLMSG_ALIGN(m->head.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), value, size);
    m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

bool answer_for(const char *text)
{
    char prefix[16], device[IF_NAMESIZE];
    unsigned char length;
    struct in_addr address;
    if (sscanf(text, "%15[0-9.]/%hhu@%15s", prefix, &length, device) != 3 || inet_pton(AF_INET, prefix, &address) != 1) {
        errno = EINVAL;
        return false;
    }
    int index = (int)if_nametoindex(device);
    if (!index)
        return false;
    struct message m = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof m.route),
                 .nlmsg_type = RTM_NEWROUTE,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE},
        .route = {.rtm_family = AF_INET,
                  .rtm_dst_len = length,
                  .rtm_table = RT_TABLE_LOCAL,
                  .rtm_protocol = RTPROT_BOOT,
                  .rtm_scope = RT_SCOPE_HOST,
                  .rtm_type = RTN_LOCAL},
    };
    add(&m, RTA_DST, &address, sizeof address);
    add(&m, RTA_OIF, &index, sizeof index);
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char rest[sizeof m];
    } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    bool told = fd >= 0 && send(fd, &m, m.head.nlmsg_len, 0) >= 0 && recv(fd, &answer, sizeof answer, 0) >= 0;
    int problem = told ? -answer.error.error : errno;
    if (fd >= 0)
        close(fd);
    errno = problem;
    return !problem;
}
